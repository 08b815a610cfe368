SELECT name FROM installation WHERE id = 1
