"""What goes over the wire: JSON in and out, with examples."""
