"""The no-U-turn sampler: chains, transitions, adaptation."""
