"""BullMQ's spellings: how jobs, options and events are written in Redis. Nothing else knows them but the Lua scripts."""
