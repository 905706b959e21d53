"""What math_answer.py compares with: a reader of answers, exact values, and the rules of what is equal to what.

text (as written) --text, words, units--> cleaned --tokens, expression--> tree --reader--> value --equal--> verdict
                                                                                 number, solve: exact arithmetic
                                                                                 verifier: math-verify, for the rest
"""
