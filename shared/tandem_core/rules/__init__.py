"""Re-ranking rules, a file each: small frozen values that turn candidates into candidates."""
