//! The `[gateway]` table: what an operator writes, and the checked plan that comes of it.
