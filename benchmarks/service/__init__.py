"""How fast the service is beside what it is made of and beside others, in one run on one machine."""
