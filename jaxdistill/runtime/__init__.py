"""What everything else stands on: errors, files, locks, processes, devices, XLA."""
