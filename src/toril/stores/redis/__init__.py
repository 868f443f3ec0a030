"""The Redis store: BullMQ's own wire format, so that Node and Toril share queues."""
