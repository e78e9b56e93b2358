"""What facts about a machine mean: facts in, findings out. Pure; `shipyard.doctor` gathers the facts."""
