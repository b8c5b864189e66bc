"""What attackers and honest readers get out of protected clips, one question a file."""
