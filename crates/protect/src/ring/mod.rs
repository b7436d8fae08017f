//! The byte ring between the copy thread and the send thread (US 8,413,145).
