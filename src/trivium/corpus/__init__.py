"""Step 1: sources become documents, conversations and preference pairs, split by item. No torch here."""
