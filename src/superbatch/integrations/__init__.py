"""Selection inside other people's trainers, through their public extension points only.

Each module is imported by those who use it, and needs the package of its name.
"""
