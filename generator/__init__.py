"""A picture and a sentence become a video on one GPU. Never Discord, never storage."""
