"""What the tests of every floor share: real processes, a wire that can be broken, clients that record, and the checker.

process   servers as operating system processes: started, killed, stopped, restarted on the same data
proxy     a TCP proxy that cuts, delays, splits, garbles and swallows
links     the two ways to carry packets (websocket and polling), as a client sees them
client    a chat client for docs/protocol.md that writes down what it was promised and what it saw
record    what is written down
checker   computes lost, repeated, reordered and invented from the records and the store
node      where Node.js is
puppet    the npm client as a process that takes orders
"""
