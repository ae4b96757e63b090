"""What training lowers. Every loss sees image ids, so two captions of one image are never negatives."""
