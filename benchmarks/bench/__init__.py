"""What statistics and edits cost beside torch's own attention: time as a ratio, and memory."""
