"""``sightline train`` beside open_clip's own trainer on real photos, at the same wall-clock."""
