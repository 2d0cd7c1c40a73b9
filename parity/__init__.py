"""Compare, judge and report: is it still the official LTX-2.3?"""
