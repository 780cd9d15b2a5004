"""People as judges: what they are shown (`tasks`), where their votes are kept (`votes`), what the votes say (`strengths`,
`agreement`), what is made of them (`export`), and the page that asks (`server`)."""
