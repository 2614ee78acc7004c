"""Which calls run when: batches across requests, interactive before bulk, deadlines, and what a failure costs."""
