"""What the daemon says about itself: logs, metrics, history."""
