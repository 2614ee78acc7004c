"""What the model has made already: kept in memory for whoever asks the same again, bounded and counted."""
