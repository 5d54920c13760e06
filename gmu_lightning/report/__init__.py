"""What runs' folders show when they are laid side by side: a leaderboard, gates by genre, figures."""
