//! The only unsafe code: userfaultfd, pagemap scans, ptrace, memory of another process.
