"""Files that outlive a process: whole or absent, sealed against damage, and a lock that ends with its owner."""
