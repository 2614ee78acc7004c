"""The commands that export, adapt, distil, reduce and optimize bundles."""
