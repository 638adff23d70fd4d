# The quickstart's MergeAR that draws the K codes alone; source recovery places them.
_base_ = ['mergear_mnist5k.py']

model = dict(sequence='distinct')
