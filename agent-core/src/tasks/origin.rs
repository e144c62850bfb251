//! Tasks that were submitted here: rows first, then leases on nodes, then results.
