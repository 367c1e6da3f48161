"""The index of jobs: a read model of all records, for questions that no single record answers.

One file of SQLite for each machine and installation. `writer` feeds it, in one of the processes
that share it, from the stream of the records; `reader` answers in all of them, with the SQL that
`query` composes from what was asked. `database` holds the tables, `rows` what becomes of a record.
The truth stays with the records: the file may be lost at any time, and is made again.
"""
