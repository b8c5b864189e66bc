"""What compares methods: other protectors (`protectors`), what attackers and readers get out of
each (`attacks`), the tables (`tables`), and the paper's own numbers (`paper`). All are listed in
`catalogue`.
"""
