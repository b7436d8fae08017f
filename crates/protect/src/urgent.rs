//! Threads that others wait for by the microsecond go before those that compute.

/// Below what the kernel's own urgent workers have, above everything that was not asked to be urgent.
const NICE: i32 = -15;

/// Gives the calling thread precedence. Without the privilege (`CAP_SYS_NICE`) it stays as it is.
pub(crate) fn this_thread() {
    if let Err(error) = rustix::process::setpriority_process(Some(rustix::thread::gettid()), NICE) {
        tracing::debug!(%error, "an urgent thread runs with ordinary priority");
    }
}
