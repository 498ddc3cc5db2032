"""What users pass in, checked: each error names the rule, the value received and the remedy."""
