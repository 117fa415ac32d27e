"""Runs in processes of their own: distributed, killed, out of disk. The long ones have the marker `reliability`."""
