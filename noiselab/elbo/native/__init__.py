"""The sums of the bound in C++, compiled on the machine that uses them; without a compiler, PyTorch's operations are used.

`building` compiles the source and loads the library; `rows` calls it.
"""
