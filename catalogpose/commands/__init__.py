"""What a user can ask for: one public function a command."""
