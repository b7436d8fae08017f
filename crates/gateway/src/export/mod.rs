//! What this gateway exports: policy, health, and forwarding to origins.
