"""Operations with a fast form beside their reference form, which is the specification.

The fast form is chosen per platform when a program is compiled; tests compare both.
"""
