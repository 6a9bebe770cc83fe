"""Evidence: studies, claims, registration, the runner, records and what is shown of them."""
