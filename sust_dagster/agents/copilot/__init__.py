"""What people get back: points, nudges, receipts."""
