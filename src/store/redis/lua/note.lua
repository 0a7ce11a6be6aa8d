-- Notes what an operator did. KEYS: the audit log. ARGV: the entry.
note(KEYS[1], ARGV[1])
return 1
