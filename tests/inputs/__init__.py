"""What people bring: each test takes one kind of file, name or option that users were seen to give."""
