"""The real servers that several nodes need, started on this machine: PostgreSQL and NATS, from wheels."""
