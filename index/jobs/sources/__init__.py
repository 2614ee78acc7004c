"""Where a job's videos come from: what was asked for, the items it names, and their bytes."""
