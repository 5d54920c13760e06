"""Reports on finished runs: leaderboard, comparison, gates, figures and page. Only run folders are read."""
