"""A video cut into clips, with what is said in each and a picture of it."""
