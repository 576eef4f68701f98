"""What a report says beside its table: health, cost, differences from the paper, as Markdown and as HTML."""
