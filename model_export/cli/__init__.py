"""Commands that export, adapt, distil, reduce and optimize bundles, and prepare them for TensorRT and Triton."""
