"""What recipes share: plumbing, and what would be wrong if typed again."""
