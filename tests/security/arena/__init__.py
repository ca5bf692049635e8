"""The arena: throw-away namespaces with a small host in them, to be attacked from outside and inside of a sandbox.

`door.py` runs in the test's process and starts the others; `stage.py` prepares the namespaces with the rights of root
in them; `init.py` is their first process; `driver.py` does what the test asks for; `world.py` and `victim.py` are what
the attacks aim at. An attack that succeeds, inside or outside, hurts nothing but the arena.
"""
