//! Serves other nodes' tasks: admission, fair queue, limits, leases.
