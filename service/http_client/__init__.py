"""The one door through which the service connects to a host that somebody else named, by URL.

Nothing else in the service may do that: here the name is resolved once, every address is judged, and the connection
goes to the address that was judged.
"""
