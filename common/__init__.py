"""What the recipes share: plumbing, and code that is easy to get wrong."""
