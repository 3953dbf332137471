"""What the launchers of native kernels share: one file for each native module."""
